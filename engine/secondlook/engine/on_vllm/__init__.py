"""The two looks on vLLM: its decoder, cache and scheduling in place of this package's.

Everything but the passes is the same code as ever: questions, doubt, decisions and regions
(`secondlook.engine.two_looks`), and HTTP over them. vLLM's synchronous engine fits that: the one thread that
computes makes one step of it in each round. Its own asynchronous engine would bring an event loop into that
thread, and a task for every look, for the same steps: what computes is in processes of vLLM's either way.

`opening` loads it, `engine` has the looks, `running` hands requests to vLLM and takes its tokens, `rows` is
loaded inside its workers, to read attention.
"""
