"""What a person runs: the commands in this folder and the packages behind them."""
