"""One number per clip or set, on footage and on our output alike."""
