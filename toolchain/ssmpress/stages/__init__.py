"""The stages of `pipeline.compress`: each a function from the results of the ones before."""
