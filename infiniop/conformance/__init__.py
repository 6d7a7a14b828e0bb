"""The conformance kit: `pytest --pyargs infiniop.conformance --backend NAME` says whether a backend is right."""
