"""An example plug-in: the method `averages`."""
