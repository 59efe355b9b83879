"""What stands between the network and the page: who asks, and how much of the app each may have."""
