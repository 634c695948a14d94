-- Runs once, when the server makes its data. Roles, tables and rights come from the jobs of ../compose.yaml.
CREATE DATABASE invoice;
CREATE DATABASE payment_gateway;
CREATE DATABASE saga;
CREATE DATABASE staff;
REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;
