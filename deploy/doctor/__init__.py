"""`remit doctor`: looks at everything that Remit stands on, and says of each trouble what to type. It changes nothing."""
