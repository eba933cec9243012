"""Live translation over websockets: a server for many speakers on one model, and the page that talks to it."""
