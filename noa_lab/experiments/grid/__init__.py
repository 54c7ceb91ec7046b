"""What a comparison asks: prompts with their templates, inputs, and the grid of cells that they span.

Everything is checked when a `Grid` is made; nothing here asks a model or touches the store.
"""
