"""The fields of a run's configuration: what they mean, what they may be, and what reads them."""
