"""A bounded mixed load for monconn: does it hold, and does everything come back?"""
