"""Other projects' engines beside ours, each in a process of its own, in turns."""
