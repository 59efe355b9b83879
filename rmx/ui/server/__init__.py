"""What stands between the network and the page: what may be asked, who asks, and how much each may have."""
