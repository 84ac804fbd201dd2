"""Speed of this machine beside plain references."""
