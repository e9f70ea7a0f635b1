"""What the SDK calls: one file per endpoint or group of them."""
