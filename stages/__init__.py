"""The product: the four steps, the flow, the doors to Livestorm and Salesforce, the console and the composition root."""
