"""A small synthetic world of captioned videos whose facts are known exactly."""
