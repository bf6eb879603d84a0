"""One request seen three ways: log line, metrics, trace; and its cost. Imports nothing of ours.

Read: request_context -> logs -> cost -> metrics -> machine -> tracing -> genai ->
generation -> middleware.
"""
