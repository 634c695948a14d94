"""The saga service. It coordinates payments: it takes events, sends commands, and reminds by deadlines."""
