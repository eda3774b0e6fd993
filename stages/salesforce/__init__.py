"""The door to Salesforce: one org a door, few kinds of calls, each bounded and each error named. Knows no step and no Kafka topic."""
