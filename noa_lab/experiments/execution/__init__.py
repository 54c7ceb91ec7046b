"""How a run is executed: on a thread of its own, model by model, by one of the executors.

`Runner` owns the thread; `Work` opens the models and copies known answers; an executor asks for the rest; `Tally` counts.
"""
