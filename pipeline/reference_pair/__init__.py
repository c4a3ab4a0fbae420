"""The reference pair: a small Qwen2.5-VL target and its draft, trained from zero."""
