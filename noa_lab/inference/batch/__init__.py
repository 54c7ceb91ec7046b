"""Many questions at once: what their prompts share is evaluated once, and as many answers as pay off grow side by side."""
