"""Caption videos on one machine: the library that actors/ multiplies and jobs/ starts."""
