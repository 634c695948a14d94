"""`make mutants`: how much of the pure cores their unit tests hold. Each mutant changes one rule; a test has to fail."""
