"""Any Python repository as a graph: what it holds, who calls whom, which ideas it teaches."""
