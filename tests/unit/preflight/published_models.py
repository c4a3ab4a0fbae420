"""What the models were published with: parameters, and the numbers that decide their size."""

PUBLISHED = {
    # name: (parameters, hidden, intermediate, layers, heads, kv heads, vision intermediate)
    "Qwen/Qwen2.5-VL-3B-Instruct": (3.75e9, 2048, 11008, 36, 16, 2, 3420),
    "Qwen/Qwen2.5-VL-7B-Instruct": (8.29e9, 3584, 18944, 28, 28, 4, 3420),
    "Qwen/Qwen2.5-VL-32B-Instruct": (33.5e9, 5120, 27648, 64, 40, 8, 3456),
    "Qwen/Qwen2.5-VL-72B-Instruct": (73.4e9, 8192, 29568, 80, 64, 8, 3456),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": (8.03e9, 3584, 18944, 28, 28, 4, 4304),
    "llava-hf/llava-onevision-qwen2-72b-ov-hf": (73.2e9, 8192, 29568, 80, 64, 8, 4304),
}
