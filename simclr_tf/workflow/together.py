"""How many images go through a network together where nothing is trained."""

BATCH_PIXELS = 2**22
MOST_TOGETHER = 256


def images_together(size: tuple[int, int]) -> int:
    """Returns how many images of a size (h, w) are embedded or classified at once."""
    return min(max(BATCH_PIXELS // (size[0] * size[1]), 1), MOST_TOGETHER)
