"""SimulEval agents around a `TranslationSession`; the files of `agent/` name one each for SimulEval's loader."""
