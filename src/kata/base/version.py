"""The version that every program prints."""

VERSION = "0.1.0"
