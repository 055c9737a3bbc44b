"""Asks a server by litellm, which has an environment of its own: its dependencies contradict the project's.

    python tests/engine/litellm_client.py http://127.0.0.1:8000/v1 picture.jpg 'What number is it?'

Prints a JSON object: what it was answered, at once and streamed.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # prices are not fetched


def main(address: str, picture: str, question: str) -> None:
    import litellm

    url = f"data:image/jpeg;base64,{base64.b64encode(Path(picture).read_bytes()).decode()}"
    content = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": url}}]
    asked = {
        "model": "openai/demo",
        "api_base": address,
        "api_key": "none",
        "messages": [{"role": "user", "content": content}],
    }
    whole = litellm.completion(**asked, max_tokens=16, logprobs=True)
    stream = litellm.completion(**asked, stream=True)
    told = {
        "whole": whole.choices[0].message.content,
        "reason": whole.choices[0].finish_reason,
        "completion_tokens": whole.usage.completion_tokens,
        "logprobs": [token.token for token in whole.choices[0].logprobs.content],
        "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices),
    }
    print(json.dumps(told))  # noqa: T201 -- a program's output


if __name__ == "__main__":
    main(*sys.argv[1:])
