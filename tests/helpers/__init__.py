"""What several tests share: small models and data, faults to try, servers and clusters that are none."""
