"""How servers are spoken to: connections, deadlines, event loops, their clocks; never what is asked of them."""
