"""Many runs at once: threads, asyncio tasks, processes, and two thousand in one process."""
