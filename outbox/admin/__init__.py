"""What an operator may ask for: here, or of the running bot through the inbox."""
