"""A run watched while it trains: has it stabilised, which experts die, is it time to move them?"""
