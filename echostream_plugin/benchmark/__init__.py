"""What a second of speech costs, here and elsewhere; run by `echostream benchmark`."""
