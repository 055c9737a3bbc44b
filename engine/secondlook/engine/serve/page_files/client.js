// The two looks as an edge has them, over HTTP; see secondlook/edge/conversation.py, which this follows.

const PROTOCOL = "2.3";
const PATIENCE = 60; // seconds that one question may wait for a server that is away or busy
const LOST_TRIES = 3; // a lost connection is tried again more often than people like to wait
const [FIRST_WAIT, LONGEST_WAIT] = [0.5, 4];
const GATEWAYS = [500, 502, 503, 504]; // where they are not in the server's own words

/** The conversation failed; the message is for people. `status` is 0 where there was no reply. */
export class Trouble extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

const WORDS = {
  incompatible_protocol: "This page is of another version than the server. Reload it.",
  model_not_ready: "The server is still loading its model. Try again in a moment.",
  shutting_down: "The server is being shut down. Try again in a moment.",
  queue_full: "The server is busy, and still was after a minute. Try again later.",
  body_too_large: "The server does not take so large a picture. Its limit may have been lowered.",
  expired_session: "The closer look came too late: the server had stopped waiting for it.",
  unknown_session: "The closer look came too late: the server no longer knows the question.",
  engine_failed: "The model failed on this question. Try another picture or question.",
};
const LOST = "The server does not answer. Is it running, and is this device on its network?";
const PARTIAL = "The server was lost before its answer was whole. Ask again.";
const KEY = "The server wants a key, or refuses this one. Enter it under Settings.";

/** One server; `key()` is its key, or "", and goes with every request as a bearer token. */
export class Client {
  constructor(key = () => "") {
    this.key = key;
  }

  card(signal, onWait) {
    return this.request("GET", "v1/model", {}, { signal, onWait });
  }

  /**
   * Ask one question about one picture. Yields each stage as it is known:
   *
   *   {stage: "global", image, sent}   the first look's picture, and the bytes of its request
   *   {stage: "first", reply}          the first answer; `reply.status` says whether the server wants more
   *   {stage: "local", image, sent}    the second look's picture
   *   {stage: "done", reply, failure}  what stands; `failure`: why there was no second look
   *
   * `picture` is a `Picture`, `options` an `AnswerOptions`. Trouble or TooSlender: no answer stands.
   */
  async *ask(card, picture, question, options, { signal, onWait, again = true }) {
    const global = await picture.globalImage(card.global_view);
    const { width, height } = picture;
    const body = await packed({ question, width, height, options: JSON.stringify(options), image: global.jpeg });
    const name = Array.from(crypto.getRandomValues(new Uint32Array(6)), (n) => n.toString(16)).join("");
    yield { stage: "global", image: global, sent: body.bytes.byteLength };
    const first = await this.request("POST", "v1/answers", body, { signal, onWait, name });
    yield { stage: "first", reply: first };
    if (first.status === "final") {
      yield { stage: "done", reply: first, failure: null };
      return;
    }
    const session = `v1/answers/${encodeURIComponent(first.session.id)}`;
    const patience = Math.min(PATIENCE, first.session.expires_in);
    try {
      const local = await picture.localImage(first.region, card.local_view);
      const closer = await packed({ image: local.jpeg });
      yield { stage: "local", image: local, sent: closer.bytes.byteLength };
      const reply = await this.request("POST", `${session}/local`, closer, { signal, onWait, patience, name });
      yield { stage: "done", reply, failure: null };
    } catch (error) {
      if (again && !signal.aborted && [0, 404, 503].includes(error.status)) {
        try {
          yield* this.ask(card, picture, question, options, { signal, onWait, again: false });
          return;
        } catch {
          if (signal.aborted) throw error;
        }
      }
      const stands = await this.giveUp(session, first, error, name);
      if (signal.aborted) throw error;
      yield { stage: "done", reply: stands, failure: stands.second ? null : error.message };
    }
  }

  /** Tell the server that a session will not go on; what it says that stands, or the first reply if that is whole. */
  async giveUp(session, first, { status }, name) {
    const { complete } = first.answer;
    if (status !== 404 && !(complete && [0, 410].includes(status))) {
      try {
        return await this.request("DELETE", session, {}, { patience: 0, name });
      } catch {
        // the first failure is the one to tell
      }
    }
    if (!complete) throw new Trouble(PARTIAL);
    return { ...first, status: "final" };
  }

  /** JSON of one request, which is repeated while the server is busy and there is patience; `name`: of its
   * question, by which balancers send both looks to one server. */
  async request(method, path, { bytes, type }, { signal, onWait = () => {}, patience = PATIENCE, name }) {
    const headers = { "secondlook-protocol": PROTOCOL, accept: "application/json" };
    if (type) headers["content-type"] = type;
    if (name) headers["x-session-id"] = name;
    if (this.key()) headers.authorization = `Bearer ${this.key()}`;
    const until = performance.now() + 1000 * patience;
    for (let attempt = 0; ; attempt++) {
      const { trouble, reply, wanted } = await attempted(path, { method, headers, body: bytes, signal });
      if (!trouble) return reply;
      const again = trouble.status ? [429, 503].includes(trouble.status) : attempt + 1 < LOST_TRIES;
      const wait = Math.max(wanted, Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** attempt) * (1 - Math.random() / 2));
      if (!again || performance.now() + 1000 * wait > until) throw trouble;
      onWait(wait, trouble);
      await pause(wait, signal);
    }
  }
}

/** The reply to one request, or what went wrong and the seconds that the server wants to be left alone. */
async function attempted(path, options) {
  let response;
  let content;
  try {
    response = await fetch(path, { ...options, cache: "no-store" }); // relative: whatever path a proxy adds
    content = await response.json().catch((error) => {
      if (!(error instanceof SyntaxError)) throw error;
    });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    return { trouble: new Trouble(LOST), wanted: 0 };
  }
  if (response.ok && content) return { reply: content };
  const { status } = response;
  const wanted = Number(response.headers.get("retry-after")) || 0;
  if (GATEWAYS.includes(status) && !content?.error) return { trouble: new Trouble(LOST, 503), wanted };
  const told = WORDS[content?.error] ?? (status === 401 || status === 403 ? KEY : content?.message);
  const message = told ?? `The server's answer is not one of secondlook (status ${status}).`;
  return { trouble: new Trouble(message, status), wanted };
}

/** A multipart body as it travels, so that its bytes can be counted. */
async function packed(fields) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value instanceof Blob) form.append(name, value, `${name}.jpg`);
    else form.append(name, value);
  }
  const response = new Response(form);
  return { type: response.headers.get("content-type"), bytes: await response.arrayBuffer() };
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => reject(signal.reason));
  });
}
