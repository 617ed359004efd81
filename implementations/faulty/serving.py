"""Family L in a pool of states: slots, padding, prefill taken for decode."""
