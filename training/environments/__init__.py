"""Environments: tasks that a policy is rolled out in, as plug-ins that every peer can replay.

An environment is a pure function of its name, version, configuration and a seed, and of the actions that follow.
No torch, and no library beyond the standard one until an adapter is asked for.
"""
