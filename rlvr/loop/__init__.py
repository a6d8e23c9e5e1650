"""The circle of feedback: a policy samples, people compare, the reward model learns, the policy improves."""
