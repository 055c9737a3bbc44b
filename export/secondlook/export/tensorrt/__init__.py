"""TensorRT engines from exported vision encoders: built, kept, inspected. What runs them is in the engine."""
