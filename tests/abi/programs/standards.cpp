// One program of parts in different C++ standards, whose Results are different types.
int values17();
int values20();
int values23();

int main() { return values17() + values20() + values23(); }
