"""All that knows addresses and bytes: liburing or plain system calls, structs, mapped queues, what this kernel can do.

Nothing here knows of handles, loops or tasks. Everything above sees numbers and callables only.
"""
