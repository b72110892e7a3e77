"""The commands of the tools: inspect, plan, import, export."""
