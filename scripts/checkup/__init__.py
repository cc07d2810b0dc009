"""scripts/doctor: asks everything that Votemill stands on, and says what to do about what is found."""
