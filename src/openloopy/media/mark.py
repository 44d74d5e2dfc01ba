"""Temporary stand-in (lead): the helper who writes this file overwrites it."""


class Marker:
    def __init__(self, first_frame):
        pass

    def __call__(self, frame):
        return frame
