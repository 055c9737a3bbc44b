"""OpenAI's chat completions, as clients everywhere speak them: another front of the same service."""
