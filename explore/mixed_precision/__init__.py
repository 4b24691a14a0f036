"""Mixed precision: a format for every layer under a budget, from measured sensitivities and simulated costs."""
