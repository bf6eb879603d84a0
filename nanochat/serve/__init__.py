"""The servers. chat_app: the public chat server and its page.

Read: settings -> schemas -> prompts -> engine_thread -> answers -> chat_app -> server.
"""
