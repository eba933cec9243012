"""The session and everything that it works with: audio, features, policies, translators, bundles."""
