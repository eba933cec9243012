"""Making a streaming encoder of Whisper's: with transcribed speech and with the features of Whisper itself."""
