"""What an operator asks for without a schedule: verify, rebuild, adopt, survey, back keys up."""
