"""Another server's model as the engine: any of OpenAI's interface that gives logprobs. Without torch."""
