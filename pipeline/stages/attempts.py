"""How often a clip was tried."""

FIRST_ATTEMPT = 1
"""Every row's attempt: a clip that failed is not tried again by itself."""
